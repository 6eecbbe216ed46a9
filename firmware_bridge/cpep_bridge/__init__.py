"""The wristband link: frames, transports, drivers and simulated devices.

It yields blocks of samples and does not depend on any model.
"""
