"""No models: but Django sends an app without this module no signals of `migrate` and `flush`."""
