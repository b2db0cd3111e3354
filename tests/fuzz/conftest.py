"""run.py is a command, which other folders have too; the tests import fuzzing.py."""

collect_ignore = ["run.py"]
