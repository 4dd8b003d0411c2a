"""Client side of the VDSM protocol: JSON-RPC 2.0 over STOMP 1.2."""
