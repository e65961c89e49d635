"""Train one network on CIFAR-10 with one backend: `python train.py --backend jax`, or --help."""

from __future__ import annotations

import signal
import sys

if __name__ == "__main__":
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # Ctrl-C while the packages are imported: the process ends, without a traceback. `main` takes over.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from triptych.train.command import main

    sys.exit(main(sys.argv[1:]))
