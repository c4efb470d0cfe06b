// Package driverprocess is the compute driver for one Linux machine: a sandbox is a supervisor process with
// its own directory, environment and session and, where kernel and privileges allow, its own user, PID, mount,
// IPC and UTS namespaces and resource limits. It owns the state directory, the processes below it and their
// control groups. It must not know what a supervisor does or anything of the gateway but its address.
//
// What must survive is on disk before it happens: the intent to run a sandbox is stored before its process is
// started, and a process does nothing until its identity is stored. A driver that was killed at any point
// therefore finds on its next start every process that belongs to it.
package driverprocess
