// Command oncekv is the whole system in one binary: database nodes, cache nodes, the admin
// page and the tools to use them. A key is set once.
//
//	oncekv dev                     three database nodes, three caches and the admin in one process
//	oncekv serve                   one database node
//	oncekv cache                   one cache node
//	oncekv admin                   the admin page
//	oncekv put KEY [VALUE|-|@FILE] set a key
//	oncekv get KEY                 write a key's value to standard output
//	oncekv stat KEY                show what is known of a key besides its value
//	oncekv ls [PREFIX]             list the keys that are set
//	oncekv watch [PREFIX]          show keys as they are set
//	oncekv batch [FILE|-]          set many keys, one for every line of JSON
//	oncekv import DIR              set one key for every file below DIR
//	oncekv members                 list and change the database nodes
//	oncekv stats                   show statistics of all nodes
//	oncekv bench [put|get|absent|batch|mixed]
//	                               measure how many requests are answered, and how fast
//	oncekv completion SHELL        write the shell's completion script
//	oncekv version, oncekv --version
//
// The package turns flags and environment into configurations of server and calls of package
// client, and their errors into exit codes.
//
// # Rules of every command
//
//  1. Data goes to standard output, messages to standard error. --json makes the
//     data one JSON document; with ls, watch and batch, one on each line.
//  2. Every flag has an environment variable: --data-dir is ONCEKV_DATA_DIR. The
//     flag wins; an empty variable counts as not set. PORT is ignored.
//  3. The exit code is 0 done, 1 failed, 2 usage (or another error that a restart
//     does not change: a limit of open files that is too low, data of another
//     version), 3 not found, 4 conflict, 5 outcome unknown, 6 the value of the key
//     was retired and is gone (of a database node: its disk failed), 7 the history
//     changed: what was read before may have changed. If the reader of standard
//     output goes away early, as with "| head", the command ends without a message
//     and with 141, which is what a shell reports after SIGPIPE. If it had already
//     changed something (a put, a change of members), the exit code tells the
//     result of that instead.
//  4. SIGINT, SIGTERM and SIGHUP end a command in order. A second one ends it at
//     once, unless it comes within a second of the first: terminals and Procfile
//     runners signal a process twice.
//  5. No command exits because another process is not up yet.
//  6. A progress bar shows only on a terminal.
//  7. An empty argument or flag is a usage error, except --value=.
//  8. A command asks before it does what cannot be undone, except for the one key
//     that was named. Without a terminal it needs --yes.
//  9. A command that waits for a node says so within a second. If nothing listens,
//     it fails at once, unless --wait is given.
//  10. A failed write to standard error changes nothing: a node keeps serving even
//     if nobody reads its log.
//
// # Caveats
//
// The content type of a value never changes, like the value. put takes it from --content-type
// or the name of @FILE, and a typed value is text/plain; import takes it from each file's
// name.
//
// If a file changes while it is read, its key is not set. Only shown and legible write names
// and sentences from others to people.
package main
