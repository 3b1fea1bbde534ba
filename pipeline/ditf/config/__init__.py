"""The parameters in `params.yaml`: their schema, their checks and the file itself."""
