"""The rules, one a file. `gammabeta.doctor.rule.RULES` imports every file in this folder."""
