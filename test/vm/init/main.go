// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Command init is the first process of a virtual machine that test/vm/run
// starts: it makes the host's files its own, runs one command there, hands out
// its exit status, and powers the machine off.
package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "init:", err) // the kernel's log
	}
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

func run() error {
	if err := loadModules(); err != nil {
		return err
	}
	if err := mountRoot(); err != nil {
		return err
	}
	parameters, err := kernelParameters()
	if err != nil {
		return err
	}
	if err = useModules(parameters["bpfnet.kernel"]); err != nil {
		return err
	}
	// Elsewhere udev makes the node of the TUN device, by which a program then gets it loaded. Those of
	// IP in IP add a link to every namespace that there is: not while a test looks for what it left.
	if err = exec.Command("/sbin/modprobe", "--all", "tun", "ipip", "ip6_tunnel", "sit").Run(); err != nil {
		return fmt.Errorf("load modules: %w", err)
	}
	ports, err := openPorts()
	if err != nil {
		return err
	}
	status, err := command(parameters["bpfnet.work"], parameters["bpfnet.dir"], ports["output"])
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintln(ports["status"], status); err != nil {
		return fmt.Errorf("write exit status: %w", err)
	}
	return nil
}

// loadModules loads the modules of the initramfs, in the order of their names.
func loadModules() error {
	files, err := filepath.Glob("/modules/*.ko")
	if err != nil {
		return err
	}
	for _, file := range files {
		if err := loadModule(file); err != nil {
			return fmt.Errorf("load module %s: %w", file, err)
		}
	}
	return nil
}

func loadModule(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // was only read
	return unix.FinitModule(int(f.Fd()), "", 0)
}

// kernelParameters returns the parameters of the kernel's command line that have a value.
func kernelParameters() (map[string]string, error) {
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return nil, fmt.Errorf("read kernel parameters: %w", err)
	}
	parameters := map[string]string{}
	for _, field := range strings.Fields(string(line)) {
		if name, value, ok := strings.Cut(field, "="); ok {
			parameters[name] = value
		}
	}
	return parameters, nil
}

// openPorts opens the virtio serial ports, by name.
func openPorts() (map[string]*os.File, error) {
	names, err := filepath.Glob("/sys/class/virtio-ports/*/name")
	if err != nil {
		return nil, err
	}
	ports := map[string]*os.File{}
	for _, file := range names {
		name, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("read name of serial port: %w", err)
		}
		port, err := os.OpenFile("/dev/"+filepath.Base(filepath.Dir(file)), os.O_WRONLY, 0)
		if err != nil {
			return nil, fmt.Errorf("open serial port: %w", err)
		}
		ports[strings.TrimSpace(string(name))] = port
	}
	return ports, nil
}

// command runs what the files command and environment in the directory work
// say, with dir as its working directory. It returns the exit status.
func command(work, dir string, output *os.File) (int, error) {
	args, err := readStrings(filepath.Join(work, "command"))
	if err != nil {
		return 0, err
	}
	env, err := readStrings(filepath.Join(work, "environment"))
	if err != nil {
		return 0, err
	}
	for _, variable := range env {
		name, value, _ := strings.Cut(variable, "=")
		if err := os.Setenv(name, value); err != nil {
			return 0, fmt.Errorf("set environment: %w", err)
		}
	}
	cmd := exec.Command(args[0], args[1:]...) // looked up in PATH of that environment
	cmd.Dir = dir
	cmd.Stdout, cmd.Stderr = output, output
	if err := cmd.Run(); cmd.ProcessState == nil {
		return 0, fmt.Errorf("run command: %w", err)
	}
	return exitStatus(cmd.ProcessState), nil
}

// exitStatus is the shell's notion of it: 128 and more is a signal.
func exitStatus(state *os.ProcessState) int {
	if ws, ok := state.Sys().(interface{ Signal() unix.Signal }); ok && !state.Exited() {
		return 128 + int(ws.Signal())
	}
	return state.ExitCode()
}

// readStrings reads a file of NUL-terminated strings.
func readStrings(file string) ([]string, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read what to run: %w", err)
	}
	return strings.Split(strings.TrimSuffix(string(data), "\x00"), "\x00"), nil
}
