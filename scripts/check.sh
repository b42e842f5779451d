#!/usr/bin/env bash
# Lint, types, import layers, spelling. Exits with the first failure. `check.sh lint types`: these alone.
set -euo pipefail
cd "$(dirname "$0")/.."
[ -x .venv/bin/ruff ] && PATH="$PWD/.venv/bin:$PATH"
format() { ruff format --check .; }
lint() { ruff check .; }
types() { mypy; }
layers() { lint-imports; }
spelling() { codespell decode configs scripts benchmarks docs ./*.md; }
[ $# -gt 0 ] || set -- format lint types layers spelling
for check in "$@"; do "$check"; done
