"""An explicit-state model of the protocol. `python -m tests.model` prints its table."""
