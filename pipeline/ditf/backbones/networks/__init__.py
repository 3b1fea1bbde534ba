"""Networks of the families of models in torch, one module each."""
