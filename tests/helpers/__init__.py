"""What tests of several rooms share: made-up studies and results, servers, clusters, processes."""
