complete --keep-order --exclusive --command horde --arguments "(COMPLETE=fish horde -- (commandline --current-process --tokenize --cut-at-cursor) (commandline --current-token))"
