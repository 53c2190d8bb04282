"""Runs modules of CPython's tests with and without luna's preload library, and compares the
result of each test. Called by harmless.sh: WORK LIBRARY INTERFACE [MODULE…]."""

import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

MODULES = ["test_socket", "test_select", "test_epoll", "test_selectors", "test_asyncio",
           "test_ssl", "test_subprocess"]
# Cases over VSOCK hang on some kernels, whoever's library is loaded.
LEFT_OUT = ["*VSOCK*", "*Vsock*"]
# A test that fails now and then by itself may differ once, not every time.
TRIES = 3
SECONDS_MAX = 900


def environment(library, settings):
    variables = {name: value for name, value in os.environ.items()
                 if not name.startswith("LUNA_")}
    variables.update(settings)
    if library:
        variables["LD_PRELOAD"] = library
    return variables


def start(work, name, module, variables, only=()):
    """Starts a module's tests; `only` names the cases, all if there are none."""
    report = os.path.join(work, f"{name}.{module}.xml")
    if os.path.exists(report):
        os.remove(report)
    words = [sys.executable, "-m", "test", "--timeout", str(SECONDS_MAX), "--junit-xml", report]
    for pattern in LEFT_OUT:
        words += ["-i", pattern]
    for case in only:
        words += ["-m", case]
    folder = os.path.join(work, f"{name}.{module}.d")
    os.makedirs(folder, exist_ok=True)
    log = open(os.path.join(work, f"{name}.{module}.log"), "w")
    process = subprocess.Popen(words + [module], env=variables, stdout=log, stderr=log,
                               stdin=subprocess.DEVNULL, cwd=folder)
    return process, report


def results(process, report):
    """What became of each case."""
    try:
        process.wait(SECONDS_MAX + 60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if not os.path.exists(report):
        return {"(the module itself)": f"no report, ended with {process.returncode}"}
    found = {}
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        kinds = {child.tag for child in case} & {"failure", "error", "skipped"}
        found[case.get("name")] = " ".join(sorted(kinds)) or "ok"
    return found


def differences(one, two):
    return sorted(name for name in one.keys() | two.keys() if one.get(name) != two.get(name))


def main():
    work, library, interface = sys.argv[1:4]
    modules = sys.argv[4:] or MODULES
    ways = {
        "plain": environment(None, {}),
        "loaded": environment(library, {}),
        "configured": environment(library, {
            "LUNA_DEV": f"xdp:{interface}", "LUNA_LISTEN": "7", "LUNA_CONNECT": "192.0.2.1:7"}),
    }
    failed = False
    for module in modules:
        running = {name: start(work, name, module, way) for name, way in ways.items()}
        found = {name: results(*one) for name, one in running.items()}
        plain = found.pop("plain")
        for name, theirs in found.items():
            differing = differences(plain, theirs)
            for _ in range(TRIES - 1):
                if not differing or differing == ["(the module itself)"]:
                    break
                again = {way: results(*start(work, way, module, ways[way], differing))
                         for way in ("plain", name)}
                differing = [case for case in differences(again["plain"], again[name])
                             if case in differing]
            print(f"{module}: {name}: {len(theirs)} tests, {len(differing)} differ", flush=True)
            for case in differing:
                failed = True
                print(f"  {case}: {plain.get(case)} without, {theirs.get(case)} with")
    sys.exit(1 if failed else 0)


main()
