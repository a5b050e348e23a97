"""One launch of a study: claims it, starts or joins a cluster, and ends in an orderly way whatever happens."""
