// Of Expo, what the blocks import: its own types want all of React Native.

declare module "expo/fetch" {
  export function fetch(url: string, init?: RequestInit): Promise<Response>;
}
