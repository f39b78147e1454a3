# cloudtaser: `make help` lists the targets.
.DEFAULT_GOAL := all
SHELL := /bin/bash

BUILD ?= build
PREFIX ?= /usr
DESTDIR ?=
CC ?= gcc
CLANG ?= clang
PKGS := fuse3 openssl libcurl libcjson libsodium yaml-0.1
VERSION := $(shell cat VERSION 2>/dev/null || echo 0.0.0)

WARN := -Wall -Wextra -Wshadow -Wconversion -Wmissing-prototypes -Wstrict-prototypes -Wvla -Wformat=2 \
	-Wno-sign-conversion -Wno-missing-field-initializers
HARDEN := -fPIE -fstack-protector-strong -fstack-clash-protection -fcf-protection -D_FORTIFY_SOURCE=2 \
	-ftrivial-auto-var-init=zero
OPT ?= -O2 -g
SAN ?=
WERROR ?= $(if $(CI),-Werror,)
CPPFLAGS_ALL = -I. -D_GNU_SOURCE -DFUSE_USE_VERSION=314 -DCT_VERSION='"$(VERSION)"' $(shell pkg-config --cflags $(PKGS))
CFLAGS_ALL = -std=gnu17 $(OPT) $(WARN) $(WERROR) $(HARDEN) $(SAN) $(CFLAGS)
LDFLAGS_ALL = -pie -Wl,-z,relro,-z,now,-z,noexecstack $(SAN) $(LDFLAGS)
LIBS = $(shell pkg-config --libs $(PKGS)) -lpthread

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

.PHONY: all setup run test unit bench bench-bins fuzz fuzz-bins asan lint format install clean help compile-commands

all: $(PROGRAMS) ## build the programs into build/bin

$(BUILD)/obj/%.o: %.c
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

unit: $(UNIT)
bench-bins: $(BENCH)
-include $(shell find $(BUILD)/obj -name '*.d' 2>/dev/null)

clean: ## remove the build folder
	rm -rf $(BUILD)

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sort | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 24
