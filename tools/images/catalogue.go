package main

// Where things are in every image.
const (
	binDir     = "usr/local/bin"
	bundlePath = "etc/ssl/certs/ca-certificates.crt"
	licenceDir = "licenses"
	sbomDir    = "usr/share/sbom"
)

// Who the images run as unless the platform chooses: a user of its own in the group 0, which platforms that choose
// a random user give to it.
const (
	userID  = 65532
	groupID = 0
)

// image is one of the images.
type image struct {
	// name is the last part of the reference, program the folder in cmd/ and the file in binDir.
	name, program string
	// title and about are for people who look at an image.
	title, about string
	// aliases are further paths of the program, without the first slash.
	aliases []string
	// writable are folders that the group may write, for mounts and for engines that copy them into new volumes.
	writable []string
	// home is the variable HOME: a random user has none of its own.
	home string
	// ports are what it may listen on.
	ports []string
}

// catalogue is all images.
func catalogue() []image {
	return []image{
		{
			name: "gateway", program: "sallyport-gateway", title: "Sallyport gateway", about: "Control plane for sandboxes of agents, compatible with OpenShell",
			aliases: []string{binDir + "/openshell-gateway"}, writable: []string{"var/openshell", "run/drivers"}, home: "/var/openshell",
			ports: []string{"8080/tcp", "8081/tcp", "9090/tcp"},
		},
		{
			name: "supervisor", program: "sallyport-supervisor", title: "Sallyport supervisor", about: "Runs inside a sandbox and connects it to its gateway",
			aliases: []string{"openshell-sandbox"}, home: "/tmp",
		},
		{
			name: "driver-kubernetes", program: "sallyport-driver-kubernetes", title: "Sallyport Kubernetes driver", about: "Compute driver: sandboxes as pods",
			writable: []string{"run/drivers"}, home: "/tmp", ports: []string{"9091/tcp"},
		},
		{
			name: "driver-oauth2", program: "sallyport-driver-oauth2", title: "Sallyport OAuth 2.0 driver", about: "Credentials driver: OAuth 2.0 client credentials",
			writable: []string{"run/drivers"}, home: "/tmp",
		},
		{
			name: "cli", program: "sallyport", title: "Sallyport", about: "Command line client", home: "/tmp",
		},
	}
}
