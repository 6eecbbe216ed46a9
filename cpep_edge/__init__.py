"""Read hand gestures from wrist EMG on the device: the runtime of cpep-edge.

Importing this package pulls in neither torch, executorch, hnswlib nor pyserial.
"""

__version__ = "0.1.0"
