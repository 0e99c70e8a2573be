"""The subcommands of `gemmodel` by subject; each module adds its own to the command line."""
