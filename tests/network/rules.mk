# SPDX-License-Identifier: Apache-2.0
# The program of tests/network: starts others inside the box. Linked with nothing of ours.
$(BUILD)/tests/network/boxed: $(BUILD)/obj/tests/network/boxed.o
	@mkdir -p $(@D)
	$(CC) $(LDFLAGS_ALL) -o $@ $^

TEST_PROGRAMS += $(BUILD)/tests/network/boxed
