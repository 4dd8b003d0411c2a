"""The daemon between VDSM and the database: it polls, reports, and does what the database asks."""
