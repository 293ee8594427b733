from modeling_tests.upstream._package import markers


def pytest_configure(config):
    for name in sorted(markers()):
        config.addinivalue_line("markers", f"{name}: upstream's")
