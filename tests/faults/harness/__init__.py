"""Injects faults into small real studies and checks that nothing was lost or doubled; see docs/reliability.md."""
