# SPDX-License-Identifier: Apache-2.0
# The programs of tests/memory. They look at processes from outside and are linked with nothing of ours.
MEMORY_PROGRAMS := $(patsubst %,$(BUILD)/tests/memory/%,scan holder bpfread)

$(MEMORY_PROGRAMS): $(BUILD)/tests/memory/%: $(BUILD)/obj/tests/memory/%.o
	@mkdir -p $(@D)
	$(CC) $(LDFLAGS_ALL) -o $@ $^ -lpthread

TEST_PROGRAMS += $(MEMORY_PROGRAMS)
