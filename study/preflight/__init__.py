"""All that is known before a launch: checks, notes, plan, and a measurement of this machine."""
