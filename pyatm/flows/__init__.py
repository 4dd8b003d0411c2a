"""The four flows of oVirt on pyatm, with a toy inventory; an engine author may copy them.

A flow is one file with one class (`pyatm.flows.flow.Flow`), listed in `pyatm.flows.catalogue`;
docs/flows.md describes them and adds a fifth.
"""
