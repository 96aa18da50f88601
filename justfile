# Everything that must hold before a change lands, as CI runs it, and the licences and advisories of dependencies.
check:
    bash .ci/run
    cargo deny check

# The whole test suite, in the one profile that everything is built in.
test:
    cargo test --release

# Regenerate the fixtures (Python with the packages of fixtures/requirements.txt).
fixtures:
    python fixtures/generate.py --out fixtures

# Benchmarks.
bench:
    cargo bench
