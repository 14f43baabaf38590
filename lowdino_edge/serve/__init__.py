"""`lowdino serve`: the sample app, the models of a run and a benchmark over HTTP; on loopback unless asked."""
