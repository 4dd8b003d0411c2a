"""Chaos around the poller: pools move, pollers die, VDSM fails over; then everything is judged."""
