"""What the tests of whole processes share."""

import pytest

from native_programs import compile_program
from wan_runs import marked


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


@pytest.fixture(scope="session")
def wan_request(tmp_path_factory):
    """wan_request(root, task): how the request of wan_runs.REQUESTS ran on two ranks, once a session."""
    directory = tmp_path_factory.mktemp("wan")
    ran = {}

    def request(root: str, task: str):
        if (root, task) not in ran:
            ran[root, task] = marked(root, task, directory / f"{root}-{task}")
        return ran[root, task]

    return request
