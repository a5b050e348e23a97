"""Storage at a URL: what drivers and workers push there and fetch from there, and who may."""
