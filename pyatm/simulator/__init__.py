"""A VDSM that people can start on a laptop: same wire, states, codes and limits, faults on demand.

Start one inside a test with :class:`~pyatm.simulator.server.Simulator`, or as a process of its own
with :class:`~pyatm.simulator.process.SimulatorProcess` or ``pyatm vdsm-sim``; talk to its control
port with :class:`~pyatm.simulator.control.SimulatorControl`.
"""
