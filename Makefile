# SPDX-License-Identifier: Apache-2.0
# cloudtaser: `make help` lists the targets.
.DEFAULT_GOAL := all
SHELL := /bin/bash
MAKEFLAGS += --no-print-directory

BUILD ?= build
PREFIX ?= /usr
DESTDIR ?=
ifeq ($(origin CC),default)
CC := gcc
endif
CLANG ?= clang
JOBS ?= $(shell nproc)
CACHE := $(or $(CLOUDTASER_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/cloudtaser)
PYTHON := $(CACHE)/venv/bin/python
RUFF := $(CACHE)/venv-lint/bin/ruff
PKGS := fuse3 openssl libcurl libcjson libsodium yaml-0.1
VERSION := $(shell cat VERSION 2>/dev/null || echo 0.0.0)

WARN := -Wall -Wextra -Wshadow -Wconversion -Wmissing-prototypes -Wstrict-prototypes -Wvla -Wformat=2 \
	-Wno-sign-conversion -Wno-missing-field-initializers
HARDEN := -fPIE -fstack-protector-strong -fstack-clash-protection -fcf-protection -D_FORTIFY_SOURCE=2 \
	-ftrivial-auto-var-init=zero
OPT ?= -O2 -g
SAN ?=
WERROR ?= $(if $(CI),-Werror,)
# Asked once, and only when something is compiled: on a fresh machine `make setup` has to come first.
PKG_CFLAGS = $(eval PKG_CFLAGS := $$(call pkg_config,--cflags))$(PKG_CFLAGS)
PKG_LIBS = $(eval PKG_LIBS := $$(call pkg_config,--libs))$(PKG_LIBS)
pkg_config = $(or $(shell pkg-config $(1) $(PKGS)),$(error some of $(PKGS) are not installed: run `make setup`))
CPPFLAGS_ALL = -I. -D_GNU_SOURCE -DFUSE_USE_VERSION=314 -DCT_VERSION='"$(VERSION)"' $(PKG_CFLAGS)
CFLAGS_ALL = -std=gnu17 $(OPT) $(WARN) $(WERROR) $(HARDEN) $(SAN) $(CFLAGS)
LDFLAGS_ALL = -pie -Wl,-z,relro,-z,now,-z,noexecstack -Wl,--as-needed $(SAN) $(LDFLAGS)
LIBS = $(PKG_LIBS) -lpthread

# One static library a folder; a file named in MAINS holds a program's main and is left out of it.
FOLDERS := base vault fs cli
MAINS := fs/cloudtaserd.c cli/cloudtaser.c
PROGRAMS := $(BUILD)/bin/cloudtaser $(BUILD)/bin/cloudtaserd

obj = $(patsubst %.c,$(BUILD)/obj/%.o,$(1))
sources = $(filter-out $(MAINS),$(sort $(wildcard $(1)/*.c)))
lib = $(BUILD)/lib/libct-$(1).a
# Who may include whom is also who may link whom: base <- vault <- fs <- cli.
LIB_base := $(call lib,base)
LIB_vault := $(call lib,vault) $(LIB_base)
LIB_fs := $(call lib,fs) $(LIB_vault)
LIB_cli := $(call lib,cli) $(LIB_fs)

UNIT := $(patsubst tests/unit/%.c,$(BUILD)/unit/%,$(wildcard tests/unit/test_*.c))
BENCH := $(patsubst tests/bench/%.c,$(BUILD)/bench/%,$(wildcard tests/bench/*.c))
FUZZ := $(patsubst tests/fuzz/%.c,$(BUILD)/fuzz/%,$(wildcard tests/fuzz/fuzz_*.c))
REPLAY := $(patsubst tests/fuzz/%.c,$(BUILD)/replay/%,$(wildcard tests/fuzz/fuzz_*.c))

C_FILES = $(sort $(shell find $(FOLDERS) tests -name '*.c'))
H_FILES = $(sort $(shell find $(FOLDERS) tests tools -name '*.h'))
SH_FILES = $(sort .ci/run cli/cloudtaser.bash $(shell find tools tests examples -name '*.sh'))

.PHONY: all setup run test unit bench bench-bins fuzz fuzz-run fuzz-bins test-programs asan lint lint-c lint-format \
	lint-shell lint-python lint-house format install clean help compile-commands

all: $(PROGRAMS) ## build the programs into build/bin

setup: ## install what is missing: Debian packages, and the tests' Python environment
	@tools/setup.sh build test

run: ## show it: seal a secret, mount, read it with cat
	@tools/setup.sh build
	@$(MAKE) -j$(JOBS) all
	@BUILD=$(BUILD) tools/demo.sh

# Everything that is compiled for tests; tests/*/rules.mk append to TEST_PROGRAMS what is theirs.
test: ## build and run all tests (T=tests/fs for some of them)
	@tools/setup.sh build test
	@$(MAKE) -j$(JOBS) all test-programs
	@CLOUDTASER_BUILD=$(BUILD) $(PYTHON) -m pytest $(T)

# Secret memory makes a process undumpable, and a leak check wants to trace it: off. Address randomisation is off as
# well, where that is allowed: sanitizers of this age meet kernels that randomise more than they can take.
NO_ASLR = $$(setarch -R true 2>/dev/null && echo setarch -R)
ASAN := BUILD=build/asan WERROR= HARDEN=-fPIE OPT='-O1 -g' \
	SAN='-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer'
asan: ## the same tests with address and undefined-behaviour sanitizers
	@tools/setup.sh build test
	@$(MAKE) -j$(JOBS) $(ASAN) all test-programs
	@CLOUDTASER_BUILD=build/asan ASAN_OPTIONS=detect_leaks=0:strict_string_checks=1 \
		UBSAN_OPTIONS=print_stacktrace=1 $(NO_ASLR) $(PYTHON) -m pytest -m 'not no_asan' $(T)

bench: ## measure; prints ratios
	@tools/setup.sh build test
	@$(MAKE) -j$(JOBS) all bench-bins
	@BUILD=$(BUILD) $(PYTHON) tests/bench/run.py $(T)

TIME ?= 20
FUZZ_BUILD := BUILD=build/fuzz CC=$(CLANG) WERROR= WARN=-Wall HARDEN=-fPIE OPT='-O1 -g' \
	SAN='-fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer'
fuzz: ## fuzz every target for TIME=20 seconds each
	@tools/setup.sh build fuzz
	@$(MAKE) -j$(JOBS) $(FUZZ_BUILD) fuzz-bins
	@tools/fuzz.sh build/fuzz $(TIME) $(T)

fuzz-run: ## fuzz one target that is built already: T=fuzz_json TIME=600
	@tools/fuzz.sh build/fuzz $(TIME) $(T)

lint: ## C, shell, Python, and the rules of the house
	@tools/setup.sh build lint
	@$(MAKE) -k -j$(JOBS) -Otarget lint-c lint-format lint-shell lint-python lint-house

lint-c: $(patsubst %.c,$(BUILD)/lint/%.tidy,$(C_FILES))

$(BUILD)/lint/%.tidy: %.c $(H_FILES) .clang-tidy tests/.clang-tidy tools/tidy.sh
	@mkdir -p $(@D)
	@tools/tidy.sh $< -std=gnu17 $(CPPFLAGS_ALL)
	@touch $@

lint-format:
	@clang-format --dry-run -Werror $(C_FILES) $(H_FILES)

lint-shell:
	@shellcheck $(SH_FILES)

lint-python:
	@$(RUFF) check --quiet tests tools
	@$(RUFF) format --quiet --check tests tools

lint-house:
	@tools/lint.sh

format: ## lay out C and Python
	@tools/setup.sh lint
	@clang-format -i $(C_FILES) $(H_FILES)
	@$(RUFF) format --quiet tests tools

compile-commands: ## write compile_commands.json for editors
	@python3 tools/compile-commands.py $(C_FILES) -- $(CC) $(CPPFLAGS_ALL) $(CFLAGS_ALL) >compile_commands.json

install: all ## install into DESTDIR, below PREFIX=/usr
	install -D -m 0755 $(BUILD)/bin/cloudtaser $(DESTDIR)$(PREFIX)/bin/cloudtaser
	install -D -m 0755 $(BUILD)/bin/cloudtaserd $(DESTDIR)$(PREFIX)/sbin/cloudtaserd
	install -D -m 0644 -t $(DESTDIR)$(PREFIX)/share/man/man1 cli/cloudtaser.1
	install -D -m 0644 -t $(DESTDIR)$(PREFIX)/share/man/man8 cli/cloudtaserd.8
	install -D -m 0644 cli/cloudtaser.bash $(DESTDIR)$(PREFIX)/share/bash-completion/completions/cloudtaser
	install -D -m 0644 -t $(DESTDIR)$(PREFIX)/share/doc/cloudtaser README.md CHANGELOG.md LICENSE

clean: ## remove the build folder
	rm -rf $(BUILD)

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' Makefile | sort | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 26

$(BUILD)/obj/%.o: %.c VERSION
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS_ALL) $(CFLAGS_ALL) -MMD -MP -c -o $@ $<

define folder_lib
$(call lib,$(1)): $(call obj,$(call sources,$(1)))
	@mkdir -p $$(@D)
	@rm -f $$@
	ar rcs $$@ $$^
endef
$(foreach f,$(FOLDERS),$(eval $(call folder_lib,$(f))))

$(BUILD)/bin/cloudtaser: $(BUILD)/obj/cli/cloudtaser.o $(LIB_cli)
	@mkdir -p $(@D)
	$(CC) $(LDFLAGS_ALL) -o $@ $^ $(LIBS)

$(BUILD)/bin/cloudtaserd: $(BUILD)/obj/fs/cloudtaserd.o $(LIB_fs)
	@mkdir -p $(@D)
	$(CC) $(LDFLAGS_ALL) -o $@ $^ $(LIBS)

# A unit test is one C program, test_PART_*.c, linked with that part and what is below it only.
part_of = $(word 2,$(subst _, ,$(notdir $(1))))
.SECONDEXPANSION:
$(BUILD)/unit/%: $(BUILD)/obj/tests/unit/%.o $$(LIB_$$(call part_of,$$@))
	@mkdir -p $(@D)
	$(CC) $(LDFLAGS_ALL) -o $@ $^ $(LIBS)

$(BUILD)/bench/%: $(BUILD)/obj/tests/bench/%.o $(LIB_fs)
	@mkdir -p $(@D)
	$(CC) $(LDFLAGS_ALL) -o $@ $^ $(LIBS)

# A fuzz target is linked with libFuzzer, or by gcc with tests/fuzz/replay.c, which feeds it the files of its corpus.
# Its part is the topmost one that it includes from. LLVMFuzzerTestOneInput has no header of its own; an empty input is
# a block that nobody wrote to, which gcc takes for a mistake.
fuzz_part = $(lastword $(foreach f,$(FOLDERS),$(if $(shell grep -l '^\#include "$(f)/' tests/fuzz/$(notdir $(1)).c),$(f))))
$(BUILD)/obj/tests/fuzz/%.o: WARN += -Wno-missing-prototypes -Wno-maybe-uninitialized
$(BUILD)/fuzz/%: $(BUILD)/obj/tests/fuzz/%.o $$(LIB_$$(call fuzz_part,$$@))
	@mkdir -p $(@D)
	$(CC) $(LDFLAGS_ALL) -fsanitize=fuzzer -o $@ $^ $(LIBS)

$(BUILD)/replay/%: $(BUILD)/obj/tests/fuzz/%.o $(BUILD)/obj/tests/fuzz/replay.o $$(LIB_$$(call fuzz_part,$$@))
	@mkdir -p $(@D)
	$(CC) $(LDFLAGS_ALL) -o $@ $^ $(LIBS)

-include $(wildcard tests/*/rules.mk)
unit: $(UNIT)
bench-bins: $(BENCH)
fuzz-bins: $(FUZZ)
test-programs: $(UNIT) $(REPLAY) $(TEST_PROGRAMS)
.PRECIOUS: $(BUILD)/obj/%.o
-include $(shell find $(BUILD)/obj -name '*.d' 2>/dev/null)
