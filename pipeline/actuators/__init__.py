"""Former room of the providers; `provider` is kept until release 0.3.0."""
