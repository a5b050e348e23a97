"""Ray clusters: started here, joined, examined node by node, or handed a study through Ray's job API."""
