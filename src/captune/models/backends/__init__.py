"""One loader for each library: `load(spec, device, dtype)` and `fetch(spec, source)`."""
