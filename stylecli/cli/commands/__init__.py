"""One module per family of commands; `stylecli.cli.app` lists them all."""
