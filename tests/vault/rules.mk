# SPDX-License-Identifier: Apache-2.0
# The backend as a program, for tests/vault/test_openbao.py.
$(BUILD)/tests/vaultcat: $(BUILD)/obj/tests/vault/vaultcat.o $(LIB_vault)
	@mkdir -p $(@D)
	$(CC) $(LDFLAGS_ALL) -o $@ $^ $(LIBS)

TEST_PROGRAMS += $(BUILD)/tests/vaultcat
