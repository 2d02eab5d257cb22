"""`python -m tamnas`, the command `tamnas` with the code of the working directory."""

from tamnas.cli.main import main

if __name__ == "__main__":
    main(prog_name="tamnas")
