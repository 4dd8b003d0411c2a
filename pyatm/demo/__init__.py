"""The demo: a VM is removed on real processes, and an engine is killed in the middle of it."""
