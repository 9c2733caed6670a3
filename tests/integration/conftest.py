"""What the tests of whole processes share."""

import pytest

from native_programs import compile_program


@pytest.fixture(scope="session")
def native_program(tmp_path_factory):
    """native_program(name): the program of tests/native, compiled once a session."""
    directory = tmp_path_factory.mktemp("native")
    programs = {}

    def program(name: str):
        if name not in programs:
            programs[name] = compile_program(name, directory)
        return programs[name]

    return program
