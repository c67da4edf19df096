"""Checks the licences of Go modules and Python packages. Used by scripts/audit.

Standard input lists the Go modules: path and folder, one a line. The Python packages are those of
the interpreter that runs this file. With --vulnerabilities FILE it reads pip-audit's report instead.
"""

import importlib.metadata
import json
import pathlib
import re
import sys

# What may be linked to, imported and shipped beside empo2, by SPDX identifier.
ALLOWED = {
    *("MIT", "MIT-0", "0BSD", "BSD-2-Clause", "BSD-3-Clause", "ISC", "Apache-2.0", "Zlib", "BSL-1.0"),
    *("PSF-2.0", "CNRI-Python", "CC0-1.0", "Unlicense", "blessing", "MPL-2.0"),
}
# torch's wheels with CUDA need NVIDIA's libraries. empo2 ships neither.
NVIDIA = re.compile(r"(nvidia|cuda)-.*")

# The text of a licence that identifies it, after white space was made single.
TEXTS = {
    "Apache-2.0": r"Apache License,? Version 2\.0",
    "MPL-2.0": r"Mozilla Public License,? [Vv]ersion 2\.0",
    "MIT": r"Permission is hereby granted, free of charge, to any person obtaining a copy",
    "ISC": r"Permission to use, copy, modify, and(/or)? distribute this software for any purpose",
    "BSD-3-Clause": r"Redistribution and use in source and binary forms",
    "Unlicense": r"free and unencumbered software released into the public domain",
}
# Names in the metadata of packages that are no identifiers.
NAMES = {
    "Apache Software License": "Apache-2.0",
    "Apache 2.0 License": "Apache-2.0",
    "Apache": "Apache-2.0",
    "MIT License": "MIT",
    "BSD License": "BSD-3-Clause",
    "BSD": "BSD-3-Clause",
    "ISC License (ISCL)": "ISC",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}


def of_module(folder: str) -> set[str]:
    """Identifiers of the licence texts in the folder of a Go module."""
    found = set()
    for path in sorted(pathlib.Path(folder).iterdir()):
        if path.is_file() and re.match(r"(?i)(licen[sc]e|copying)", path.name):
            text = " ".join(path.read_text(errors="replace").split())
            found |= {name for name, pattern in TEXTS.items() if re.search(pattern, text)}
            if re.search(r"GNU (LESSER |AFFERO )?GENERAL PUBLIC LICENSE", text):
                found.add("GPL")
    return found


def of_package(metadata: importlib.metadata.PackageMetadata) -> set[str]:
    """Identifiers of a Python package. Of alternatives one must be allowed."""
    expression = metadata.get("License-Expression")
    if expression is None:
        classifiers = metadata.get_all("Classifier") or []
        names = [c.rsplit(" :: ", 1)[-1] for c in classifiers if c.startswith("License ::")]
        expression = " AND ".join(NAMES.get(n, n) for n in names if n != "OSI Approved")
        if not expression:
            text = metadata.get("License") or ""
            expression = NAMES.get(text, text)
    for alternative in expression.split(" OR "):
        names = (part.strip("() ") for part in alternative.split(" AND "))
        parts = {name.removesuffix(" WITH LLVM-exception") for name in names}
        if parts <= ALLOWED:
            return parts
    return {p.strip("() ") for p in re.split(r" AND | OR ", expression) if p}


def licences() -> int:
    rows = []
    for line in sys.stdin:
        module, folder = line.split(maxsplit=1)
        rows.append(("Go", module, of_module(folder.strip())))
    for package in importlib.metadata.distributions():
        name = package.metadata["Name"]
        if not NVIDIA.fullmatch(name) and name != "empo2-trainer":
            rows.append(("Python", name, of_package(package.metadata)))
    refused = 0
    for kind, name, found in sorted(rows, key=lambda row: (row[0], row[1].lower())):
        ok = bool(found) and found <= ALLOWED
        refused += not ok
        print(f"{kind:7}{name:45}{' AND '.join(sorted(found)) or 'unknown'}{'' if ok else '  REFUSED'}")
    print(f"{len(rows)} modules and packages, {refused} refused")
    return 1 if refused else 0


def vulnerabilities(path: pathlib.Path) -> int:
    packages = json.loads(path.read_text())["dependencies"] if path.exists() else []
    checked = [p for p in packages if "skip_reason" not in p]
    for p in checked:
        for v in p["vulns"]:
            fixed = ", ".join(v["fix_versions"]) or "no version"
            print(f"{p['name']} {p['version']}: {v['id']}, fixed in {fixed}")
    print(f"{len(checked)} of {len(packages)} Python packages checked")
    if any(p["vulns"] for p in checked):
        return 1
    if len(checked) < len(packages) or not packages:
        print("NOT CHECKED: the others; the database does not know them or cannot be reached")
        return 4
    return 0


if __name__ == "__main__":
    sys.exit(vulnerabilities(pathlib.Path(sys.argv[2])) if "--vulnerabilities" in sys.argv[1:2] else licences())
