"""The places a benchmark can run, one module each."""
