// Command oncekv is the whole system in one binary: database nodes, cache nodes,
// the admin page and the tools to use them. A key is set once.
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
//	oncekv stats                   show the figures of all nodes
//	oncekv bench [put|get|absent|batch|mixed]
//	                               measure how many requests are answered, and how fast
//	oncekv completion SHELL        write the shell's completion script
//	oncekv version, oncekv --version
//
// The package turns flags and environment into configurations of
// server and calls of package client, and their errors into exit codes.
//
// # Rules every command keeps
//
//  1. Data goes to standard output, talk to standard error. --json makes the
//     data one JSON document; with ls, watch and batch, one on each line.
//  2. Every flag has an environment twin: --data-dir is ONCEKV_DATA_DIR. A flag
//     beats it; an empty variable counts as not set. PORT is ignored.
//  3. The exit code is 0 done, 1 failed, 2 usage (or what starting again does not
//     change either: a limit of open files that is too low, data of another version),
//     3 not found, 4 conflict, 5 outcome unknown, 6 the value of the key was retired
//     and is gone (of a database node: its disk failed), 7 the history changed: what
//     was read before need not be what is there now. A command whose reader goes before
//     it has done everything, as with "| head", ends without a word and with 141, which
//     is what a shell reports of programs that SIGPIPE ends. What was carried out by
//     then (a put, a change of members) has the exit code that tells how it went.
//  4. SIGINT, SIGTERM and SIGHUP end a command in order. A second one ends it at
//     once, unless it comes within a second of the first: terminals and Procfile
//     runners signal a process twice.
//  5. Nothing exits because another process is not up yet.
//  6. A progress bar shows only on a terminal.
//  7. An argument or flag that is given and empty is a usage error, except --value=.
//  8. A command asks before it does what cannot be taken back, unless that is the
//     one key that was named. Without a terminal to ask on it needs --yes.
//  9. A command that waits for a node says so within a second. Where nothing
//     listens it fails at once, unless --wait is given.
//  10. What is lost on standard error changes nothing: a node whose log nobody reads
//     any more serves on.
//
// # Caveats
//
// The content type of a value is kept for ever, like the value. put takes it
// from --content-type or the name of @FILE, and typed text is text/plain; import
// takes it from each file's name.
//
// What was read of a file that changes meanwhile is not set. Only shown and legible
// write names and sentences that others chose to people.
package main
