"""Settings of the families of models, one module each. Importing them does not import torch."""
