// A CNI runtime over the reference library: libcni_runner add|check|del NETWORK NETNS CONTAINER.
//
// NETCONFPATH and CNI_PATH tell where configurations and plugins are, CNI_CACHE where libcni keeps its own records,
// CNI_IFNAME, CNI_ARGS (K=V;K=V) and CAP_ARGS (JSON) what an attachment is given. ADD prints the result.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containernetworking/cni/libcni"
)

func main() {
	if err := run(os.Args[1], os.Args[2], os.Args[3], os.Args[4]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(command, network, netns, container string) error {
	list, err := libcni.LoadConfList(os.Getenv("NETCONFPATH"), network)
	if err != nil {
		return err
	}
	attachment := &libcni.RuntimeConf{ContainerID: container, NetNS: netns, IfName: os.Getenv("CNI_IFNAME")}
	for _, pair := range strings.Split(os.Getenv("CNI_ARGS"), ";") {
		if key, value, found := strings.Cut(pair, "="); found {
			attachment.Args = append(attachment.Args, [2]string{key, value})
		}
	}
	if given := os.Getenv("CAP_ARGS"); given != "" {
		if err := json.Unmarshal([]byte(given), &attachment.CapabilityArgs); err != nil {
			return err
		}
	}
	runtime := libcni.NewCNIConfigWithCacheDir(
		filepath.SplitList(os.Getenv("CNI_PATH")), os.Getenv("CNI_CACHE"), nil)
	ctx := context.Background()
	switch command {
	case "add":
		result, err := runtime.AddNetworkList(ctx, list, attachment)
		if err != nil {
			return err
		}
		return result.Print()
	case "check":
		return runtime.CheckNetworkList(ctx, list, attachment)
	case "del":
		return runtime.DelNetworkList(ctx, list, attachment)
	}
	return fmt.Errorf("what is %s?", command)
}
