"""The workload on other programs, each used as its documentation says."""
