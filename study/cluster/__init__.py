"""Ray clusters: started here, joined, and examined node by node."""
