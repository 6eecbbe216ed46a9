"""Print each gesture when the wearer of the band makes it.

python examples/gestures.py my.cpep /dev/ttyACM0 profile.json
"""

import sys

import cpep_edge

if not 3 <= len(sys.argv) <= 4:
    sys.exit("usage: python examples/gestures.py BUNDLE PORT [PROFILE]")
bundle, port, *profile = sys.argv[1:]
try:
    for decision in cpep_edge.live(bundle, port, profile=profile[0] if profile else None):
        if decision.changed:
            print(f"{decision.device_t_s:8.2f} s  {decision.gesture}  {decision.confidence:.0%}", flush=True)
except cpep_edge.errors.CpepError as error:
    sys.exit(f"error: {error}")
