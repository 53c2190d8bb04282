# What people do with luna, one word each. `make` alone lists the words.

PREFIX ?= /usr/local
DESTDIR ?=

.PHONY: help demo deps build test bench figures harmless soak install

help:
	@echo 'make demo     redis on the kernel and on luna, side by side (root)'
	@echo 'make test     every check of docs/TESTING.md that belongs to a change'
	@echo 'make build    target/release: luna, libluna.so, libluna_preload.so'
	@echo 'make deps     install what building and testing need (root, Debian)'
	@echo 'make bench    measure, and write docs/BENCHMARKS.md (root)'
	@echo 'make figures  draw the curves of the paper for this machine, in target/figures (root)'
	@echo 'make harmless  the tests of CPython, with and without the preload library (root)'
	@echo 'make soak     1 GiB transfers and repeated tests (root)'
	@echo 'make install  into $$(DESTDIR)$$(PREFIX), by default /usr/local'

demo:
	@bash scripts/demo.sh

deps:
	@bash scripts/deps.sh

build:
	cargo build --release --locked --package luna --package luna_preload

test:
	@bash scripts/test.sh

bench:
	@bash scripts/bench.sh $(TABLES)

figures:
	@bash scripts/bench.sh figures

harmless:
	@bash scripts/harmless.sh $(MODULES)

soak:
	@bash scripts/soak.sh

VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
LIBDIR := $(PREFIX)/lib

# The preload library finds libluna.so beside itself, and the command finds both in ../lib.
install: build
	install -D -m 755 target/release/luna $(DESTDIR)$(PREFIX)/bin/luna
	install -D -m 755 target/release/libluna.so $(DESTDIR)$(LIBDIR)/libluna.so.$(VERSION)
	ln -sf libluna.so.$(VERSION) $(DESTDIR)$(LIBDIR)/libluna.so.0
	ln -sf libluna.so.0 $(DESTDIR)$(LIBDIR)/libluna.so
	install -D -m 755 target/release/libluna_preload.so $(DESTDIR)$(LIBDIR)/libluna_preload.so
	install -D -m 644 include/luna.h $(DESTDIR)$(PREFIX)/include/luna.h
	install -d $(DESTDIR)$(LIBDIR)/pkgconfig
	printf '%s\n' 'prefix=$(PREFIX)' 'libdir=$${prefix}/lib' 'includedir=$${prefix}/include' '' \
	    'Name: luna' 'Description: a user-space TCP stack with the calls of BSD sockets' \
	    'Version: $(VERSION)' 'Libs: -L$${libdir} -lluna' 'Cflags: -I$${includedir}' \
	    > $(DESTDIR)$(LIBDIR)/pkgconfig/luna.pc
	@echo 'Run ldconfig if programs are to be linked to libluna.so.'
