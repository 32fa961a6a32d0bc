import { TollgateClient } from "@tollgate/client";

const tollgate = new TollgateClient("http://localhost:8080", () => "TOKEN");
for await (const { delta } of tollgate.stream([{ role: "user", content: "Hello!" }])) console.log(delta);
