package engine

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/xml"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"text/template"
)

// The users of the embedded engine.
const (
	WriterUser  = "tacho"   // owns the database
	AnalystUser = "analyst" // reads it, with settings of its own
	QueryUser   = "query"   // reads it for strangers: statements are all it can send
)

// Parts that were replaced, and are old enough, are looked for every 10 seconds
// at last, by default every 5 minutes: data that must be forgotten are in them.
// The logger's level here is without effect in the library, which takes it
// from an argument; size and count bound the file.
var serverSettings = template.Must(template.New("config.xml").Parse(`<clickhouse>
    <logger>
        <log>{{.Log}}</log>
        <size>10M</size>
        <count>3</count>
    </logger>
    <users_config>{{.Users}}</users_config>
    <listen_reuse_port>{{.Reserved}}</listen_reuse_port>
    <max_server_memory_usage>{{.Memory}}</max_server_memory_usage>
    <mark_cache_size>{{.Cache}}</mark_cache_size>
    <uncompressed_cache_size>0</uncompressed_cache_size>
    <background_pool_size>4</background_pool_size>
    <background_schedule_pool_size>8</background_schedule_pool_size>
    <max_concurrent_queries>100</max_concurrent_queries>
    <max_temporary_data_on_disk_size>8589934592</max_temporary_data_on_disk_size>
    <access_control_improvements>
        <settings_constraints_replace_previous>true</settings_constraints_replace_previous>
    </access_control_improvements>
    <merge_tree>
        <min_free_disk_bytes_to_perform_insert>{{.DiskReserve}}</min_free_disk_bytes_to_perform_insert>
        <cleanup_delay_period>2</cleanup_delay_period>
        <cleanup_delay_period_random_add>1</cleanup_delay_period_random_add>
        <max_cleanup_delay_period>10</max_cleanup_delay_period>
        <fsync_after_insert>{{.Sync}}</fsync_after_insert>
        <fsync_part_directory>{{.Sync}}</fsync_part_directory>
    </merge_tree>
    {{- with .Cluster}}
    <remote_servers>
        <{{.Name}}>
            <secret>{{.Secret}}</secret>
            {{- range .Shards}}
            <shard><replica><host>{{.Host}}</host><port>{{.Port}}</port></replica></shard>
            {{- end}}
        </{{.Name}}>
    </remote_servers>
    {{- end}}
</clickhouse>
`))

// The in-process user "default" cannot have a password and comes from
// 127.0.0.1 as any local client may: it opens the listeners and does nothing
// else. Others are refused in its name: no statement is short enough to be read
// (what is read is analysed, file() and all, before any right is looked at), and
// a query is always at work, the one that keeps the engine open. For that one
// the child's arguments lift both limits.
//
// The analyst reads. readonly=2 lets clients send their settings; the limits
// keep one query, and all of the analyst's together, from starving the writer.
// The row filter holds for every way to the table (view, merge, loop ...).
//
// Through the user query go statements of whoever may call the HTTP interface,
// so that no text may lift a limit: readonly=1 fixes every setting but those
// marked as changeable, and forbids all table functions but those that make
// rows of nothing or read tables (numbers, view, merge ...), whatever else
// ClickHouse may learn to do. A query whose client has gone is ended, and one
// that is asked again under its id replaces it: that is how its owner ends it.
// Both users leave more of the disk free than telemetry needs.
var userSettings = template.Must(template.New("users.xml").Parse(`<clickhouse>
    <profiles>
        <default/>
        <nobody>
            <max_concurrent_queries_for_all_users>1</max_concurrent_queries_for_all_users>
            <max_query_size>1</max_query_size>
            <constraints>
                <max_concurrent_queries_for_all_users><const/></max_concurrent_queries_for_all_users>
                <max_query_size><const/></max_query_size>
            </constraints>
        </nobody>
        <writer>
            <async_insert>0</async_insert>
        </writer>
        <analyst>
            <readonly>2</readonly>
            <max_memory_usage>{{.AnalystMemory}}</max_memory_usage>
            <max_memory_usage_for_user>{{.AnalystMemory}}</max_memory_usage_for_user>
            <max_concurrent_queries_for_user>16</max_concurrent_queries_for_user>
            <max_execution_time>300</max_execution_time>
            <max_threads>2</max_threads>
            <min_free_disk_space_for_temporary_data>{{.TemporaryReserve}}</min_free_disk_space_for_temporary_data>
            <constraints>
                <max_memory_usage><max>{{.AnalystMemory}}</max></max_memory_usage>
                <max_memory_usage_for_user><const/></max_memory_usage_for_user>
                <max_concurrent_queries_for_user><const/></max_concurrent_queries_for_user>
                <max_execution_time><min>1</min><max>3600</max></max_execution_time>
                <max_threads><min>1</min><max>16</max></max_threads>
                <max_untracked_memory><max>4194304</max></max_untracked_memory>
                <min_free_disk_space_for_temporary_data><const/></min_free_disk_space_for_temporary_data>
            </constraints>
        </analyst>
        <query>
            <readonly>1</readonly>
            <max_execution_time>{{.Query.Seconds}}</max_execution_time>
            <max_result_rows>{{.Query.Rows}}</max_result_rows>
            <result_overflow_mode>throw</result_overflow_mode>
            <max_query_size>{{.Query.Length}}</max_query_size>
            <max_memory_usage>{{.Query.Memory}}</max_memory_usage>
            <max_memory_usage_for_user>{{.AnalystMemory}}</max_memory_usage_for_user>
            <max_concurrent_queries_for_user>{{.Query.AtOnce}}</max_concurrent_queries_for_user>
            <max_threads>2</max_threads>
            <min_free_disk_space_for_temporary_data>{{.TemporaryReserve}}</min_free_disk_space_for_temporary_data>
            <cancel_http_readonly_queries_on_client_close>1</cancel_http_readonly_queries_on_client_close>
            <replace_running_query>1</replace_running_query>
            <constraints>
                <session_timezone><changeable_in_readonly/></session_timezone>
                <final><changeable_in_readonly/></final>
                <join_use_nulls><changeable_in_readonly/></join_use_nulls>
                <date_time_output_format><changeable_in_readonly/></date_time_output_format>
                <output_format_json_quote_64bit_integers><changeable_in_readonly/></output_format_json_quote_64bit_integers>
                <output_format_arrow_compression_method><changeable_in_readonly/></output_format_arrow_compression_method>
                <output_format_parquet_compression_method><changeable_in_readonly/></output_format_parquet_compression_method>
            </constraints>
        </query>
    </profiles>
    <quotas><default/></quotas>
    <users>
        <default>
            <password/>
            <networks><ip>127.0.0.1</ip></networks>
            <profile>nobody</profile>
            <quota>default</quota>
            <grants><query>GRANT SYSTEM LISTEN ON *.*</query></grants>
        </default>
        <{{.Writer}}>
            <password_sha256_hex>{{.WriterHash}}</password_sha256_hex>
            <networks><ip>::/0</ip></networks>
            <profile>writer</profile>
            <quota>default</quota>
            <grants>
                <query>GRANT SELECT, INSERT, ALTER, CREATE, DROP, TRUNCATE, OPTIMIZE, CHECK ON {{.Database}}.*</query>
                <query>GRANT SELECT, INSERT, ALTER, CREATE, DROP, TRUNCATE, OPTIMIZE ON {{.Database}}_replay.*</query>
                {{- if .Cluster}}
                <query>GRANT SELECT, INSERT, ALTER, CREATE, DROP, TRUNCATE, OPTIMIZE, CHECK ON {{.Database}}_shard.*</query>
                <query>GRANT SELECT, INSERT, ALTER, CREATE, DROP, TRUNCATE, OPTIMIZE ON {{.Database}}_shard_replay.*</query>
                <query>GRANT REMOTE ON *.*</query>
                {{- end}}
                <query>GRANT SELECT ON system.*</query>
                <query>GRANT KILL QUERY ON *.*</query>
                <query>GRANT TABLE ENGINE ON *</query>
                <query>GRANT CREATE TEMPORARY TABLE ON *.*</query>
                <query>GRANT SYSTEM MERGES, SYSTEM SYNC REPLICA ON *.*</query>
            </grants>
        </{{.Writer}}>
        <{{.Analyst}}>
            <password_sha256_hex>{{.AnalystHash}}</password_sha256_hex>
            <networks><ip>::/0</ip></networks>
            <profile>analyst</profile>
            <quota>default</quota>
            <grants>
                <query>GRANT SELECT ON {{.Database}}.*</query>
                {{- if .Cluster}}
                <query>GRANT SELECT ON {{.Database}}_shard.*</query>
                {{- end}}
                <query>GRANT SELECT ON system.tables</query>
                <query>GRANT SELECT ON system.columns</query>
                <query>GRANT SELECT ON system.databases</query>
                <query>GRANT SELECT ON system.parts</query>
                <query>GRANT SELECT ON system.functions</query>
                <query>GRANT SELECT ON system.numbers</query>
                <query>GRANT CREATE TEMPORARY TABLE ON *.*</query>
            </grants>
            <databases>
                <{{.Database}}>
                    <events><filter>kind != 'credential'</filter></events>
                </{{.Database}}>
                {{- if .Cluster}}
                <{{.Database}}_shard>
                    <events><filter>kind != 'credential'</filter></events>
                </{{.Database}}_shard>
                {{- end}}
            </databases>
        </{{.Analyst}}>
        <{{.QueryUser}}>
            <password_sha256_hex>{{.QueryHash}}</password_sha256_hex>
            <networks><ip>::/0</ip></networks>
            <profile>query</profile>
            <quota>default</quota>
            <grants>
                <query>GRANT SELECT ON {{.Database}}.*</query>
                {{- if .Cluster}}
                <query>GRANT SELECT ON {{.Database}}_shard.*</query>
                {{- end}}
                <query>GRANT SELECT ON system.tables</query>
                <query>GRANT SELECT ON system.columns</query>
                <query>GRANT SELECT ON system.databases</query>
                <query>GRANT SELECT ON system.functions</query>
                <query>GRANT SELECT ON system.numbers</query>
            </grants>
            <databases>
                <{{.Database}}>
                    <events><filter>kind != 'credential'</filter></events>
                </{{.Database}}>
                {{- if .Cluster}}
                <{{.Database}}_shard>
                    <events><filter>kind != 'credential'</filter></events>
                </{{.Database}}_shard>
                {{- end}}
            </databases>
        </{{.QueryUser}}>
    </users>
</clickhouse>
`))

// writeSettings writes the engine's two files of settings, with hashes only,
// and returns the path of the first. They are written anew at every start.
func (c *Config) writeSettings() (string, error) {
	server, users := filepath.Join(c.Dir, "config.xml"), filepath.Join(c.Dir, "users.xml")
	log, err := escaped(filepath.Join(c.Dir, "clickhouse.log"))
	if err != nil {
		return "", err
	}
	usersPath, err := escaped(users)
	if err != nil {
		return "", err
	}
	values := map[string]any{
		"Log": log, "Users": usersPath, "DiskReserve": c.DiskReserve, "Sync": 0, "Reserved": c.Reserved,
		"Memory": c.Memory, "Cache": min(c.Memory/8, 256<<20), "AnalystMemory": c.Memory / 2,
		"Writer": WriterUser, "WriterHash": sha256Hex(c.WriterPassword), "Database": c.Database,
		"Analyst": AnalystUser, "AnalystHash": sha256Hex(c.AnalystPassword),
		"QueryUser": QueryUser, "QueryHash": sha256Hex(c.QueryPassword), "Query": c.Query,
		"TemporaryReserve": 8 * c.DiskReserve, "Cluster": nil,
	}
	if c.Cluster.Name != "" {
		if values["Cluster"], err = c.Cluster.settings(); err != nil {
			return "", err
		}
	}
	if c.Sync {
		values["Sync"] = 1
	}
	for file, t := range map[string]*template.Template{server: serverSettings, users: userSettings} {
		var b bytes.Buffer
		if err := t.Execute(&b, values); err != nil {
			return "", fmt.Errorf("render %s: %w", t.Name(), err)
		}
		if err := os.WriteFile(file, b.Bytes(), 0o600); err != nil {
			return "", fmt.Errorf("write settings: %w", err)
		}
	}
	return server, nil
}

// settings are what the template takes.
func (c Cluster) settings() (map[string]any, error) {
	secret, err := escaped(c.Secret)
	if err != nil {
		return nil, err
	}
	var shards []map[string]string
	for _, address := range c.Shards {
		host, port, err := net.SplitHostPort(address)
		if err != nil {
			return nil, fmt.Errorf("shard of the cluster %s: %w", c.Name, err)
		}
		shards = append(shards, map[string]string{"Host": host, "Port": port})
	}
	return map[string]any{"Name": c.Name, "Secret": secret, "Shards": shards}, nil
}

// escaped is text as an element's content: a path may hold any character.
func escaped(text string) (string, error) {
	var b bytes.Buffer
	err := xml.EscapeText(&b, []byte(text))
	return b.String(), err
}

func sha256Hex(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}
