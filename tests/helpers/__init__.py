"""What tests of several packages share: made-up studies and results, servers, clusters, processes."""
